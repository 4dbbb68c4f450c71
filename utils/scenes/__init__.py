"""Objects and segments of a photograph, found once and kept; shared by attribution and features."""
