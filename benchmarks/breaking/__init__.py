"""What benchmarks/faults.py breaks on purpose: a module for each kind of fault."""
