package site

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	_ "image/png"
	"io"
	"net/http"
	"time"

	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/replica"
	"github.com/tierkit/tierkit/shard"
)

const (
	maxUpload = 2 << 20
	maxSide   = 4096
	thumbSide = 480
)

func primary(ctx context.Context) context.Context { return replica.Primary(ctx) }

// upload takes a photo as the body of the request.
func (s *Site) upload(w http.ResponseWriter, r *http.Request, user string) error {
	id, err := key(r)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxUpload))
	if err != nil {
		return statusError{http.StatusRequestEntityTooLarge, "a photo has at most 2 MiB"}
	}
	if err := s.storePhoto(r.Context(), id, user, data); err != nil {
		return err
	}
	w.Header().Set("Location", "/-/photos/"+id+"/v1")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// readFile returns the file of a form's field.
func readFile(r *http.Request, field string) ([]byte, error) {
	f, _, err := r.FormFile(field)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxUpload+1))
}

// storePhoto stores a JPEG or PNG and leaves the slow work, resizing, to the workers. The photo is acknowledged once
// both the row and the job are durable.
func (s *Site) storePhoto(ctx context.Context, id, user string, data []byte) error {
	if len(data) > maxUpload {
		return statusError{http.StatusRequestEntityTooLarge, "a photo has at most 2 MiB"}
	}
	cfg, _, err := image.DecodeConfig(bytes.NewReader(data)) // the size first: a small file may unpack to gigabytes
	if err != nil || cfg.Width < 1 || cfg.Height < 1 || cfg.Width > maxSide || cfg.Height > maxSide {
		return statusError{http.StatusUnsupportedMediaType, "want a JPEG or PNG of at most 4096 x 4096 pixels"}
	}
	err = s.write(ctx, shard.String(id), id, "photo", func(ctx context.Context, tx *shard.Tx) error {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO photos (slot, id, owner, original, thumb, created)
			VALUES (?, ?, ?, ?, NULL, ?)`, int(tx.Slot()), id, user, data, time.Now().UnixMilli())
		return err
	})
	if err != nil {
		return err
	}
	if _, err := queue.Send(ctx, s.Queue,
		queue.Message{Topic: TopicPhotos, Kind: "resize", ID: id, Header: traced(ctx)}, id); err != nil {
		return err
	}
	s.published.Add(1)
	return nil
}

// photo serves the resized photo under a versioned URL that never changes its content.
func (s *Site) photo(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	var thumb []byte
	err := s.Shards.Do(r.Context(), shard.String(id), func(ctx context.Context, db *sql.DB, _ shard.Slot) error {
		return db.QueryRowContext(ctx, `SELECT thumb FROM photos WHERE id = ?`, id).Scan(&thumb)
	})
	if errors.Is(err, sql.ErrNoRows) || err == nil && thumb == nil || r.PathValue("version") != "v1" {
		w.Header().Set("Cache-Control", "no-store")
		http.NotFound(w, r)
		return nil
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "image/jpeg")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, err = w.Write(thumb)
	return err
}

// resize decodes and encodes again, so that nothing of the uploaded file but its pixels is ever served.
func resize(data []byte) ([]byte, error) {
	src, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	b := src.Bounds()
	scale := max(float64(b.Dx()), float64(b.Dy())) / thumbSide
	scale = max(scale, 1)
	w, h := max(int(float64(b.Dx())/scale), 1), max(int(float64(b.Dy())/scale), 1)
	dst := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w { // the mean of the box under each pixel
			x0, x1 := b.Min.X+x*b.Dx()/w, b.Min.X+max((x+1)*b.Dx()/w, x*b.Dx()/w+1)
			y0, y1 := b.Min.Y+y*b.Dy()/h, b.Min.Y+max((y+1)*b.Dy()/h, y*b.Dy()/h+1)
			var r, g, bl, n uint64
			for sy := y0; sy < y1; sy++ {
				for sx := x0; sx < x1; sx++ {
					cr, cg, cb, _ := src.At(sx, sy).RGBA()
					r, g, bl, n = r+uint64(cr), g+uint64(cg), bl+uint64(cb), n+1
				}
			}
			dst.SetRGBA(x, y, color.RGBA{uint8(r / n >> 8), uint8(g / n >> 8), uint8(bl / n >> 8), 255})
		}
	}
	var out bytes.Buffer
	err = jpeg.Encode(&out, dst, &jpeg.Options{Quality: 80})
	return out.Bytes(), err
}
