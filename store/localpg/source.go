package localpg

// DefaultSourceURL is the base of the public Maven repository that holds the
// archives of github.com/zonkyio/embedded-postgres-binaries.
const DefaultSourceURL = "https://repo1.maven.org/maven2"
