"""Result classes of the clients."""
