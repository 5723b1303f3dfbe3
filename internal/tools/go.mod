module github.com/kolekt/commerce/internal/tools

go 1.26.0
