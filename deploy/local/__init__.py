"""A whole deployment on the loopback interface of one machine, without containers; see README.md."""
