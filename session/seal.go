package session

import (
	"fmt"

	"github.com/tierkit/tierkit/internal/keyring"
)

// EncryptionKey encrypts records at rest. Secret has at least 32 random bytes; ID, which stands in the record in the
// clear, is 1 to 64 letters, digits, - or _.
type EncryptionKey struct {
	ID     string
	Secret []byte
}

const (
	sealedVersion = 2 // first byte of Record.Data, followed by what keyring.Seal made of the frame
	sealPurpose   = "tierkit session record"
)

// SetEncryptionKeys replaces Options.EncryptionKeys while requests are served: the first encrypts from now on, all
// decrypt. Records are encrypted anew when they are next written.
func (s *Sessions[T]) SetEncryptionKeys(keys ...EncryptionKey) error {
	if len(keys) == 0 {
		return fmt.Errorf("session: SetEncryptionKeys without keys")
	}
	ks := make([]keyring.Key, len(keys))
	for i, k := range keys {
		ks[i] = keyring.Key{ID: k.ID, Secret: k.Secret}
	}
	ring, err := keyring.New(ks...)
	if err != nil {
		return fmt.Errorf("session: Options.EncryptionKeys: %w", err)
	}
	s.ring.Store(ring)
	return nil
}

// seal makes of a frame what the store keeps.
func (s *Sessions[T]) seal(k Key, frame []byte) []byte {
	ring := s.ring.Load()
	if ring == nil {
		return frame
	}
	return append([]byte{sealedVersion}, ring.Seal(sealPurpose, frame, k[:])...)
}

// open checks that a record's data belongs to it, and takes it apart.
func (s *Sessions[T]) open(r *Record) (f frame, err error) {
	b := r.Data
	ring := s.ring.Load()
	switch {
	case len(b) > 0 && b[0] == sealedVersion:
		if ring == nil {
			return f, fmt.Errorf("%w: it is encrypted, and there are no keys", errFrame)
		}
		k := r.Key // a copy, so that r need not escape
		if b, err = ring.Unseal(sealPurpose, b[1:], k[:]); err != nil {
			return f, errSwapped
		}
	case ring != nil && !s.o.ReadPlain:
		return f, errSwapped
	}
	return decodeFrame(b, r)
}
