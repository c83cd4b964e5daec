"""One page on which a reader of the papers sees everything: made from records and rendered files, without torch."""
