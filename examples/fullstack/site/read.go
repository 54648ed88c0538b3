package site

import (
	"net/http"
	"strings"
)

// front shows the chapters, the most read first.
func (s *Site) front(w http.ResponseWriter, r *http.Request) error {
	cards, err := s.cards(r.Context(), s.chapters)
	if err != nil {
		return err
	}
	photos, err := s.photos(r.Context(), "", 6)
	if err != nil {
		return err
	}
	return s.show(w, r, "front", http.StatusOK, page{Title: "The Ladder: from one server to millions",
		Description: "A guide in eleven steps, served by the architecture that it explains.",
		Lead:        &cards[0], Cards: cards[1:], Photos: photos}, "front")
}

// chapter shows an article with its comments. Its view is posted by the page itself (see beacon): a hit at the edge is
// a view too, and a prefetch is none.
func (s *Site) chapter(w http.ResponseWriter, r *http.Request) error {
	c, err := s.named(r)
	if err != nil {
		return err
	}
	counts, err := s.counts(r.Context())
	if err != nil {
		return err
	}
	talk, err := s.comments(r.Context(), c.Path)
	if err != nil {
		return err
	}
	return s.show(w, r, "chapter", http.StatusOK, page{Title: c.Title + ": The Ladder", Description: c.Stand,
		Page: c.Path, Here: c.Slug, Chapter: c, Count: counts[c.Path], Comments: talk}, "chapter-"+c.Slug)
}

func (s *Site) named(r *http.Request) (*Chapter, error) {
	if c := s.byPath["/read/"+r.PathValue("slug")]; c != nil {
		return c, nil
	}
	return nil, statusError{http.StatusNotFound, "no such chapter"}
}

func (s *Site) search(w http.ResponseWriter, r *http.Request) error {
	query := strings.TrimSpace(r.FormValue("q"))
	if len(query) > 200 {
		return bad("q must have at most 200 bytes")
	}
	cards, err := s.cards(r.Context(), s.find(query))
	if err != nil {
		return err
	}
	others, err := s.cards(r.Context(), s.chapters)
	if err != nil {
		return err
	}
	return s.show(w, r, "search", http.StatusOK, page{Title: "Search: The Ladder", Query: query, Cards: cards,
		Others: others[:3]})
}

func (s *Site) gallery(w http.ResponseWriter, r *http.Request) error {
	photos, err := s.photos(r.Context(), "", 60)
	if err != nil {
		return err
	}
	return s.show(w, r, "photos", http.StatusOK, page{Title: "Photos: The Ladder", Here: "photos", Photos: photos},
		"photos")
}

// person shows what somebody wrote and uploaded.
func (s *Site) person(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if !validName(name) {
		return statusError{http.StatusNotFound, "nobody has this name"}
	}
	photos, err := s.photos(r.Context(), name, 60)
	if err != nil {
		return err
	}
	talk, err := s.commentsBy(r.Context(), name)
	if err != nil {
		return err
	}
	return s.show(w, r, "person", http.StatusOK, page{Title: name + ": The Ladder", Person: name, Photos: photos,
		Talk: talk}, "person-"+name)
}
