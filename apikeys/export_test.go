package apikeys

// Invented returns what somebody without the pepper can make: a token of
// prefix acme whose checksum is right.
func Invented() string { return forgeTail("acme_live_" + randomPart()) }
