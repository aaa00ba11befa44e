package mountpoint

// What the tests that mount, and so import package fs, need of this package.
var (
	RootClaims    = &rootClaims
	UniqueID      = &uniqueID
	MountID       = &mountID
	MountIDOfProc = mountIDOfProc
	ClaimName     = claimName
)
