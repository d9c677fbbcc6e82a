"""What tests of clients and servers stand on: the real engine, in memory."""
