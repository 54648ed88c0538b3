package testserver

import (
	"context"
	"testing"
)

var mariaTemplate template

// The users are made on every node outside the binary log: "app" respects read_only, root does not.
const mariaInit = `set sql_log_bin = 0;
create user if not exists 'root'@'127.0.0.1';
grant all on *.* to 'root'@'127.0.0.1' with grant option;
create database if not exists test;
create user if not exists 'app'@'127.0.0.1';
grant all on test.* to 'app'@'127.0.0.1';
grant binlog monitor, slave monitor on *.* to 'app'@'127.0.0.1';
`

// MariaDB starts a primary and its replicas; they end with the test.
func MariaDB(t testing.TB, o MySQLOptions) *MySQLCluster {
	t.Helper()
	server, install := find("mariadbd", "/usr/sbin", "/usr/libexec"), find("mariadb-install-db", "/usr/bin")
	if server == "" || install == "" {
		missing(t, "MariaDB", "apt-get install mariadb-server")
	}
	return mysqlFamily{
		name: "mariadb", server: server, template: &mariaTemplate, init: mariaInit, byGTID: "master_use_gtid=slave_pos",
		fill: func(ctx context.Context, dir string) error {
			return run(ctx, dir, serverUser("mysql"), install, "--no-defaults", "--datadir="+dir, "--tmpdir="+dir,
				"--auth-root-authentication-method=normal", "--skip-test-db")
		},
		args: []string{"--gtid-strict-mode=1", "--master-retry-count=0"},
	}.start(t, o)
}
