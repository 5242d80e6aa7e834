"""What a run says, for people: tables on the terminal and one page with figures."""
