package services

import "syscall"

// procAttr puts a server into a process group of its own, so that Ctrl-C in a
// terminal reaches the tests and not the server, and ties its life to ours.
func procAttr(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true, Pdeathsig: syscall.SIGQUIT}
}
