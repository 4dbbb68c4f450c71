"""The whole study on one page that shows what came out."""
