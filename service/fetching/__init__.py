"""Images from elsewhere: fetched from hosts that are allowed, at addresses that are public, within caps."""
