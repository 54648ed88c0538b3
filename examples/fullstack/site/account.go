package site

import (
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// next is where a form leads to: a path of this site, never another host.
func next(r *http.Request) string {
	u, err := url.Parse(r.FormValue("next"))
	if err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(u.Path, "/") ||
		strings.HasPrefix(u.Path, "//") ||
		strings.Contains(u.Path, `\`) {
		return "/"
	}
	return u.Path
}

// form shows the page of a form: login, register or upload.
func (s *Site) form(here, title string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		return s.show(w, r, "form", http.StatusOK, page{Title: title + ": The Ladder", Here: here, Next: next(r),
			Key: rand.Text()})
	}
}

// retry shows a form again with what was wrong about it.
func (s *Site) retry(w http.ResponseWriter, r *http.Request, here, title string, err error) error {
	var se statusError
	if !errors.As(err, &se) || !wantsHTML(r) {
		return err
	}
	return s.show(w, r, "form", se.status, page{Title: title + ": The Ladder", Here: here, Next: next(r),
		Name: r.FormValue("name"), Key: rand.Text(), Error: se.text})
}

func (s *Site) registerForm(w http.ResponseWriter, r *http.Request) error {
	name, err := s.signUp(w, r)
	if err == nil {
		err = s.Sessions.From(r.Context()).Login(r.Context(), name, func(u *User) error { u.Name = name; return nil })
	}
	if err != nil {
		return s.retry(w, r, "register", "Register", err)
	}
	return done(w, r, http.StatusCreated, next(r), nil)
}

func (s *Site) loginForm(w http.ResponseWriter, r *http.Request) error {
	if err := s.signIn(w, r); err != nil {
		return s.retry(w, r, "login", "Log in", err)
	}
	return done(w, r, http.StatusNoContent, next(r), nil)
}

func (s *Site) logoutForm(w http.ResponseWriter, r *http.Request) error {
	if err := s.Sessions.From(r.Context()).Destroy(r.Context()); err != nil {
		return err
	}
	return done(w, r, http.StatusNoContent, "/", nil)
}

// account shows a user's sessions, on whichever servers and devices they are.
func (s *Site) account(w http.ResponseWriter, r *http.Request, user string) error {
	infos, err := s.Sessions.List(r.Context(), user)
	if err != nil {
		return err
	}
	p := page{Title: user + ": The Ladder", Here: "account", Name: user}
	for _, i := range infos {
		p.Sessions = append(p.Sessions, i.Created)
	}
	return s.show(w, r, "form", http.StatusOK, p)
}

func (s *Site) logoutOthers(w http.ResponseWriter, r *http.Request, user string) error {
	if _, err := s.Sessions.RevokeOthers(r.Context(), user); err != nil {
		return err
	}
	return done(w, r, http.StatusNoContent, "/account", nil)
}

func (s *Site) uploadForm(w http.ResponseWriter, r *http.Request, user string) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxUpload+64<<10)
	err := r.ParseMultipartForm(maxUpload)
	var data []byte
	if err == nil {
		data, err = readFile(r, "photo")
	}
	if err != nil {
		err = statusError{http.StatusBadRequest, "choose a JPEG or PNG of at most 2 MiB"}
	}
	var id string
	if err == nil {
		id, err = keyOr(r, "photo", user, string(data))
	}
	if err == nil {
		err = s.storePhoto(r.Context(), id, user, data)
	}
	if err != nil {
		return s.retry(w, r, "upload", "Upload", err)
	}
	return done(w, r, http.StatusCreated, "/people/"+user, nil)
}
