"""Ways to run hpsearch on clusters and servers; see README.md."""
