-- The requests that wrk sends, and what it measured as one line of JSON: latencies in microseconds.

local lines = {}
for i = 1, 12 do
    lines[i] = string.format('{"sku": "sku-%d", "count": %d}', i * 31, i % 4 + 1)
end

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"customer": "ada lovelace", "lines": [' .. table.concat(lines, ", ") .. "]}"

function done(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format(
        '{"requests": %d, "microseconds": %d, "failed": %d, "p50": %d, "p90": %d, "p99": %d, "p999": %d}\n',
        summary.requests, summary.duration, failed, latency:percentile(50), latency:percentile(90),
        latency:percentile(99), latency:percentile(99.9)))
end
