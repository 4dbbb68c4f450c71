"""What categories have to do with it: tables and figures by category, from the other rooms' tables alone."""
