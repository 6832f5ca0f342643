"""The tests. Numpy has one thread in them, as it has in the commands (`hpsearch.cli.main`)."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
