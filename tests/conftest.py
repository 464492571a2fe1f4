"""Settings of all tests."""

import signal

import torch

torch.set_num_threads(1)  # small tensors: a second thread costs more than it gives

# A shell tells what it runs behind a "&" to ignore Ctrl-C, and so would all tests of it and the programs they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
