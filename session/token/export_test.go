package token

import "fmt"

// CheckKeySet and KeySetNames show the parser of key sets to tests.
func CheckKeySet(b []byte) error {
	_, err := parseJWKS(b)
	return err
}

func KeySetNames(b []byte) (names []string, err error) {
	ks, err := parseJWKS(b)
	for _, k := range ks {
		names = append(names, fmt.Sprint(k.id, " ", k.alg))
	}
	return names, err
}
