package replica

// MySQL is the dialect of MySQL 5.7 and later with GTID mode on, with the driver go-sql-driver/mysql.
func MySQL() Dialect { return nil }

// MariaDB is the dialect of MariaDB 10.5 and later with the driver go-sql-driver/mysql. It implements Promoter.
func MariaDB() Dialect { return nil }
