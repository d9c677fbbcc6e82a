"""The pytest plugin. It is loaded in every run of every project that has this package installed, so importing it must cost nothing."""
