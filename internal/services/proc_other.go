//go:build unix && !linux

package services

import "syscall"

// procAttr puts a server into a process group of its own, so that Ctrl-C in a
// terminal reaches the tests and not the server.
func procAttr(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true}
}
