"""From an answer to the lake: journal, spool and shipper; nothing acknowledged is lost on the way."""
