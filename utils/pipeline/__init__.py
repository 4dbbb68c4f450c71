"""The study as a whole: which stages there are, what each is given, and which have to run again."""
