package stripesim

import "slices"

// firstVersion is the API version that the simulator thinks in.
const firstVersion = "2023-10-16"

// Versions returns the API versions that the simulator renders, oldest first.
func Versions() []string {
	return []string{firstVersion}
}

// versionRank is a version's place among Versions, or -1.
func versionRank(version string) int { return slices.Index(Versions(), version) }

// translate renders an object of the first version in a later one.
func translate(in object, version string) object { return in }
