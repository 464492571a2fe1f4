"""Settings of all tests."""

import os
import signal

# Small arrays: a second thread costs more than it gives, in workers, in the libraries they call, and in the programs
# they start. Before anything is imported that reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)

# A shell tells what it runs behind a "&" to ignore Ctrl-C, and so would all tests of it and the programs they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
