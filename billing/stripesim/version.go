package stripesim

import "slices"

// Versions are the API versions that the simulator renders, oldest first.
var Versions = []string{
	"2023-10-16",
}

// versionRank is a version's place among Versions, or -1.
func versionRank(version string) int { return slices.Index(Versions, version) }

// translate renders an object of the first version in a later one.
func translate(in object, version string) object { return in }
