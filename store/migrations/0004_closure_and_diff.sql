-- Kinship at any distance, by name: what the macros read by id, for engines that have no macros.

CREATE VIEW v1.closure AS
SELECT a.name AS ancestor, d.name AS descendant, k.distance, k.confidence
FROM internal.closure k
JOIN internal.models a ON a.id = k.ancestor
JOIN internal.models d ON d.id = k.descendant;
COMMENT ON VIEW v1.closure IS 'Every ancestor of every model over the edges believed';
COMMENT ON COLUMN v1.closure.ancestor IS 'Name of the ancestor';
COMMENT ON COLUMN v1.closure.descendant IS 'Name of the descendant';
COMMENT ON COLUMN v1.closure.distance IS 'Edges on the shortest way';
COMMENT ON COLUMN v1.closure.confidence IS 'Weakest edge on the surest way; 0 when it rests on a claim alone';

CREATE MACRO v1.diff(scan_a, scan_b) AS TABLE
SELECT c.scan, c.kind, c.subject, c.before, c.after FROM internal.changes c
WHERE c.scan > scan_a AND c.scan <= scan_b
UNION ALL
SELECT m.first_seen_scan, 'model_added', m.name, NULL, m.source FROM internal.models m
WHERE m.first_seen_scan > scan_a AND m.first_seen_scan <= scan_b
ORDER BY ALL;
COMMENT ON MACRO TABLE v1.diff IS 'What scans after one and up to another found: changes, and models seen for the first time';
CREATE MACRO main.diff(scan_a, scan_b) AS TABLE SELECT * FROM v1.diff(scan_a, scan_b);
