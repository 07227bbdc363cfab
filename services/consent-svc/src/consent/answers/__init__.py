"""What people are told and asked by SMS, and the one door through which it leaves."""
