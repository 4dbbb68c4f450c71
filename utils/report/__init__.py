"""The whole study: which stage has to run again, and one page that shows what came out."""
