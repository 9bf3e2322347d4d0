"""Side-by-side benchmarks against peers and against the physical limit. Answers are checked before anything is
timed."""
