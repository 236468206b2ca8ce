"""Access to servers and to stored user data. Standard library only: backends import it."""
