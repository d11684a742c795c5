"""What the tests stand on: a scripted upstream on a real socket, a running gateway, a client."""
