// Package e2e drives the reference deployment in a browser. It is a module of
// its own so that the browser driver stays out of users' module graph.
package e2e
