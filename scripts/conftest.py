"""pytest stays out of this folder: the test_*.py here are programs, run by hand."""

collect_ignore_glob = ["*.py"]
