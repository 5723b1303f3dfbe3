package stripesim

import "time"

const kindTestClock = "test_helpers.test_clock"

// testClock is a clock of its own for the customers that are made on it.
type testClock struct {
	head
	name   string
	frozen int64
}

func (c *testClock) render(*Simulator) object {
	return object{
		"id": c.id, "object": kindTestClock, "created": c.created, "deletes_after": c.created + 30*86400, "frozen_time": c.frozen, "livemode": false,
		"name": optional(c.name), "status": "ready",
	}
}

func (s *Simulator) createClock(c *call) (any, error) {
	tc := &testClock{name: c.form.str("name"), frozen: c.form.int("frozen_time")}
	s.add(kindTestClock, s.newID("clock_"), "", tc)
	s.emit("test_helpers.test_clock.created", tc)
	return tc, nil
}

func (s *Simulator) fetchClock(c *call) (any, error) {
	return find[*testClock](s, kindTestClock, c.id(), "")
}

func (s *Simulator) listClocks(c *call) (any, error) {
	return &page{url: "/v1/test_helpers/test_clocks", items: entities(newest[*testClock](s, kindTestClock, nil)), window: c.form}, nil
}

// maxClockMove is how far a test clock may go at once.
const maxClockMove = int64(2 * 366 * day / time.Second)

// advanceClock moves a test clock. Stripe does it in the background and
// answers "advancing"; the simulator is done when it answers.
func (s *Simulator) advanceClock(c *call) (any, error) {
	tc, err := find[*testClock](s, kindTestClock, c.id(), "")
	if err != nil {
		return nil, err
	}
	target := c.form.int("frozen_time")
	if target <= tc.frozen {
		return nil, badRequest("", "frozen_time", "Frozen time must be after the current frozen time.")
	}
	if target > tc.frozen+maxClockMove {
		return nil, badRequest("", "frozen_time", "A test clock can be advanced by at most two years at once.")
	}
	s.emit("test_helpers.test_clock.advancing", tc)
	for range maxSteps {
		due, run := s.nextDue(tc.id)
		if run == nil || due > target {
			break
		}
		tc.frozen = max(tc.frozen, due)
		run()
	}
	tc.frozen = target
	s.emit("test_helpers.test_clock.ready", tc)
	return tc, nil
}

// deleteClock removes a test clock; its customers are deleted with it.
func (s *Simulator) deleteClock(c *call) (any, error) {
	tc, err := find[*testClock](s, kindTestClock, c.id(), "")
	if err != nil {
		return nil, err
	}
	for _, cust := range all(s, kindCustomer, func(x *customer) bool { return x.clock == tc.id && !x.deleted }) {
		if _, err := s.deleteCustomer(&call{vars: map[string]string{"id": cust.id}, form: &form{}}); err != nil {
			return nil, err
		}
	}
	s.emit("test_helpers.test_clock.deleted", tc)
	s.remove(tc)
	return object{"id": tc.id, "object": kindTestClock, "deleted": true}, nil
}
