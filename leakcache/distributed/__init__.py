"""Many processes on one list of work units, without messages between them."""
