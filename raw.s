// The compiler allows functions without a body, such as procPin of raw.go, in a
// package that has a file in assembly.
