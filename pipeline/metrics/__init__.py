"""How near one picture is to another, and what a difference of means is worth."""
