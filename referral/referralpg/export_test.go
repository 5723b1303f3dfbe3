package referralpg

// Waiting returns how many attempts at a code wait for one that is under way.
func (s *Store) Waiting(code string) int {
	s.lanes.mu.Lock()
	defer s.lanes.mu.Unlock()
	if l := s.lanes.busy[code]; l != nil {
		return len(l.queue)
	}
	return 0
}

// Idle reports whether no statement is under way.
func (s *Store) Idle() bool {
	s.lanes.mu.Lock()
	defer s.lanes.mu.Unlock()
	return len(s.lanes.busy) == 0
}
