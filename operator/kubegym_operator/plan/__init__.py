"""Pure decisions: (snapshot, now) -> Plan. Imports no client, clock, random number or environment variable."""
