module github.com/kolekt/commerce/internal/bench

go 1.26.0

require github.com/kolekt/commerce v0.0.0

replace github.com/kolekt/commerce => ../..
