package sqlstore

// Again shows the repetition to tests.
var Again = again
