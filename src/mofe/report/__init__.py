"""Results for people: the page, the pictures on it, the table on the terminal."""
