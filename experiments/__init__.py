"""Many runs: grids over the package, and what is made of them."""
