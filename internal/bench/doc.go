// Package bench measures this module beside its peers and beside the bare
// floor (the same work without a library), interleaved in one run. It is a
// module of its own so that the peers stay out of users' module graph.
package bench
