package decline

import "slices"

// Caps lists every published bound on attempts, superseded ones included.
func Caps() []Cap { return slices.Clone(known.caps) }
