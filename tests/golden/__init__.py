"""What a real Traffic Server 9.2.9 did, and the proof that this proxy does the same or differs on purpose."""
