"""Who may call the gateway, what for, and how often."""
