package mailertest

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
)

// auth answers an AUTH command.
func (c *session) auth(rest string) bool {
	mechanism, initial, _ := strings.Cut(rest, " ")
	ask := func(prompt string) (string, bool) {
		if _, err := io.WriteString(c.conn, "334 "+base64.StdEncoding.EncodeToString([]byte(prompt))+"\r\n"); err != nil {
			return "", false
		}
		line, err := c.r.ReadString('\n')
		answer, decodeErr := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		return string(answer), err == nil && decodeErr == nil
	}
	if strings.EqualFold(mechanism, "SCRAM-SHA-256") {
		return c.scram(initial, ask)
	}
	var user, password string
	switch strings.ToUpper(mechanism) {
	case "PLAIN":
		decoded, err := base64.StdEncoding.DecodeString(initial)
		parts := strings.Split(string(decoded), "\x00")
		if err == nil && len(parts) == 3 {
			user, password = parts[1], parts[2]
		}
	case "XOAUTH2":
		decoded, err := base64.StdEncoding.DecodeString(initial)
		rest, ok := strings.CutPrefix(string(decoded), "user=")
		if name, bearer, cut := strings.Cut(rest, "\x01auth=Bearer "); err == nil && ok && cut {
			user, password = name, strings.TrimRight(bearer, "\x01")
		}
	case "LOGIN":
		var ok bool
		if user, ok = ask("Username:"); !ok {
			return false
		}
		if password, ok = ask("Password:"); !ok {
			return false
		}
	}
	want, known := c.s.cfg.Users[user]
	return c.admit(user, known && want == password)
}

// admit ends an AUTH exchange.
func (c *session) admit(user string, good bool) bool {
	if !good {
		_, ok := c.say("AUTH", "535 5.7.8 authentication failed")
		return ok
	}
	positive, ok := c.say("AUTH", "235 2.7.0 welcome")
	if positive {
		c.user = user
	}
	return ok
}

// scram is the server's side of RFC 7677, without channel binding.
func (c *session) scram(initial string, ask func(string) (string, bool)) bool {
	first, err := base64.StdEncoding.DecodeString(initial)
	if initial == "" {
		answer, ok := ask("")
		if !ok {
			return false
		}
		first = []byte(answer)
	}
	bare, ok := strings.CutPrefix(string(first), "n,,")
	fields := strings.Split(bare, ",")
	if err != nil || !ok || len(fields) < 2 {
		return c.admit("", false)
	}
	user := strings.TrimPrefix(fields[0], "n=")
	nonce := strings.TrimPrefix(fields[1], "r=") + rand.Text()
	salt := []byte("mailertest salt")
	serverFirst := fmt.Sprintf("r=%s,s=%s,i=4096", nonce, base64.StdEncoding.EncodeToString(salt))
	final, ok := ask(serverFirst)
	if !ok {
		return false
	}
	withoutProof, proof, _ := strings.Cut(final, ",p=")
	password, known := c.s.cfg.Users[user]
	salted, err := pbkdf2.Key(sha256.New, password, salt, 4096, 32)
	if err != nil {
		return false
	}
	sign := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	clientKey := sign(salted, "Client Key")
	stored := sha256.Sum256(clientKey)
	auth := bare + "," + serverFirst + "," + withoutProof
	want := make([]byte, len(clientKey))
	subtle.XORBytes(want, clientKey, sign(stored[:], auth))
	if !known || base64.StdEncoding.EncodeToString(want) != proof || !strings.Contains(withoutProof, "r="+nonce) {
		return c.admit("", false)
	}
	if _, ok := ask("v=" + base64.StdEncoding.EncodeToString(sign(sign(salted, "Server Key"), auth))); !ok {
		return false
	}
	return c.admit(user, true)
}
